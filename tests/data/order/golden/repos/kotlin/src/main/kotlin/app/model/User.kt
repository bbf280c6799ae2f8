package app.model

data class User(val name: String)
