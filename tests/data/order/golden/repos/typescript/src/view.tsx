import { find } from "./api.js";
import { Store } from "./store";

export const View = () => <b>{find(new Store(), "a")?.name}</b>;
