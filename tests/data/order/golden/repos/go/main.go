package main

import (
	"github.com/other/report"

	m "example.com/shop/money"
	"example.com/shop/tax"
)

func main() { print(m.Format(tax.Tax(1))); report.Print() }
