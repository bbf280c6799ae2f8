"""What is not worth training on, or must not be: filters, licences, secrets, copies."""
