#pragma once
double round_money(double x);
