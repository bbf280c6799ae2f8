package tax

import (
	"fmt"

	"example.com/shop/money"
)

func Tax(x float64) float64 { fmt.Print(); return money.Round(x) }
