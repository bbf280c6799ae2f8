package app.util

import app.model.User

fun shout(user: User) = user.name.uppercase()
