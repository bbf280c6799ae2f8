const { tax } = require("../tax");
const { round } = require("../money");

module.exports = { total: (xs) => round(xs.reduce((a, b) => a + b + tax(b), 0)) };
