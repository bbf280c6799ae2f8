export * from "./cart";
export { add } from "./add";
