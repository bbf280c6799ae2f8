import { Store } from "./store";
import { find } from "./api";

it("is empty", () => expect(find(new Store(), "x")).toBe(undefined));
