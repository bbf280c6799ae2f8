use crate::money::*;

pub fn run() { round(1.0); }
