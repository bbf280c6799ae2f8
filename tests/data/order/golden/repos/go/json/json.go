package json

func Valid(b []byte) bool { return false }
