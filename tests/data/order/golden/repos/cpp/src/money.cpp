#include "shop/money.hpp"
#include <cmath>

double round_money(double x) { return std::round(x); }
