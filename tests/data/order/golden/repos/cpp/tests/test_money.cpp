#include "shop/money.hpp"

int main() { return round_money(1) != 1; }
