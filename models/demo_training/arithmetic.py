"""Addition and subtraction digit by digit, the way the model is taught to reason."""


def addition_steps(a: int, b: int) -> str:
    """`addition_steps(17, 25)` is `7+5=12, 1+2+1=4`: from the right, each later step with its carry."""
    steps, carry, first = [], 0, True
    while a or b or first:
        total = a % 10 + b % 10 + carry
        steps.append(f"{a % 10}+{b % 10}={total}" if first else f"{a % 10}+{b % 10}+{carry}={total}")
        a, b, carry, first = a // 10, b // 10, total // 10, False
    return ", ".join(steps)


def subtraction_steps(a: int, b: int) -> str:
    """`subtraction_steps(42, 25)` is `12-5=7, 4-2-1=1`: a digit that borrows is written with its ten."""
    steps, borrow, first = [], 0, True
    while a or b or first:
        top, low = a % 10, b % 10
        next_borrow = int(top < low + borrow)
        top += 10 * next_borrow
        steps.append(f"{top}-{low}={top - low}" if first else f"{top}-{low}-{borrow}={top - low - borrow}")
        a, b, borrow, first = a // 10, b // 10, next_borrow, False
    return ", ".join(steps)
