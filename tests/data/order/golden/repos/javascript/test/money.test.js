import { round } from "../src/money";

test("rounds", () => expect(round(1.234)).toBe(1.23));
