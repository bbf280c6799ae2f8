import { total } from "./cart";

export const add = (xs, x) => total([...xs, x]);
