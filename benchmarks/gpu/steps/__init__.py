"""What the GPU report does: per step a module with `cases()`, their names, and `run(name)`."""
