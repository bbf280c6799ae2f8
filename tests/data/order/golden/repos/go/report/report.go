package report

import "encoding/json"

func Print() { json.Valid(nil) }
