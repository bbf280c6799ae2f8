use std::collections::HashMap;
use shop::cart::Cart;
use serde::Deserialize;
mod cli;

fn main() { cli::run() }
