def combine_twin(*a): raise NotImplementedError
def scan_twin(*a): raise NotImplementedError
