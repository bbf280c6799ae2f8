#ifndef CART_H
#define CART_H
#include <shop/money.hpp>
struct Cart { double total; };
#endif
