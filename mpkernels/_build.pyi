from typing import TypedDict

class Info(TypedDict):
    compiler: str
    flags: str
    instruction_sets: list[str]
    instruction_set: str
    cuda_architectures: list[str]
    torch: str

def info() -> Info: ...
