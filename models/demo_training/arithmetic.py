"""Addition digit by digit, the way the model is taught to reason."""


def addition_steps(a: int, b: int) -> str:
    """`addition_steps(17, 25)` is `7+5=12, 1+2+1=4`: from the right, each later step with its carry."""
    steps, carry, first = [], 0, True
    while a or b or first:
        total = a % 10 + b % 10 + carry
        steps.append(f"{a % 10}+{b % 10}={total}" if first else f"{a % 10}+{b % 10}+{carry}={total}")
        a, b, carry, first = a // 10, b // 10, total // 10, False
    return ", ".join(steps)
