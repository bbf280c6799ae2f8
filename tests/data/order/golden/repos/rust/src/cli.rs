use shop::money::*;

pub fn run() { round(1.0); }
