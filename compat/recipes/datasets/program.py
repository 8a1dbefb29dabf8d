"""Maps and filters a dataset in two processes, with lambdas."""

import datasets

if __name__ == "__main__":
    datasets.disable_caching()
    numbers = datasets.Dataset.from_dict({"n": list(range(2000))})
    squares = numbers.map(lambda row: {"square": row["n"] ** 2}, num_proc=2)
    odd = squares.filter(lambda row: row["square"] % 2, num_proc=2)
    print(odd, sum(odd["square"]))
