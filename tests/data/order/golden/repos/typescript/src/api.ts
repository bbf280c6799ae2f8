import { Store } from "./store";
import { User } from "./types";
import fs = require("fs");

export const find = (s: Store, n: string): User | undefined => s.users.find((u) => u.name === n);
