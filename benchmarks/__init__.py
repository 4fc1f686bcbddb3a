"""Time, memory and accuracy of the aggregation beside its peers', in one run."""
