import { add } from "./cart";
import React from "react";
import { round } from "@/money";

export const App = () => round(add([], 1));
