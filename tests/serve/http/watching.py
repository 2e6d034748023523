"""What a server lets see of itself while it is asked."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from bertline.benchmarks.serve.serving import Serving


def metrics(server: Serving) -> dict[str, float]:
    """Samples by name and labels."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=20) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
    }
