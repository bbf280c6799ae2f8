package money

import "testing"

func TestRound(t *testing.T) { Round(1) }
