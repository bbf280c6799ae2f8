import type { User } from "./types";

export class Store {
  users: User[] = [];
}
