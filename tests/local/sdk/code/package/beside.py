import packaging

VALUE = f"from beside {packaging.__name__}"
