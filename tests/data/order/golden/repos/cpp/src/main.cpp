#include "cart.h"
#include "../include/shop/money.hpp"

int main() { return round_money(Cart{}.total); }
