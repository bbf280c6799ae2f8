package main

import (
	"github.com/other/money"

	m "example.com/shop/money"
	"example.com/shop/tax"
)

func main() { print(m.Format(tax.Tax(1))); money.Spend() }
