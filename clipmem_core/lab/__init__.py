"""The laboratory: mitigations, studies, benchmarks and UnitMem. The auditor never imports it."""
