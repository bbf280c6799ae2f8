import { round } from "./money.js";

export const tax = (x) => round(x * 0.2);
