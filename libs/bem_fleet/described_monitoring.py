"""Monitoring in a service descriptor: dashboards, recording rules and alerting rules."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """Base of all parts of a descriptor: immutable, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Panel(Strict):
    """One panel of a dashboard; exactly one of ``query``, ``rate``, ``gauge`` and ``p95`` is set.

    Attributes:
        title: Title of the panel.
        query: PromQL; ``SELECTOR`` stands for the label matcher of the namespace.
        rate: Counter whose rate over five minutes is summed by ``by``.
        gauge: Gauge that is summed by ``by``.
        p95: Histogram whose 95th percentile over five minutes is shown by ``by``.
        by: Labels that divide the lines.
        unit: Grafana's unit, such as ``s`` or ``reqps``.
        legend: Legend of a ``query``; the others take theirs from ``by``.
        kind: ``timeseries``; ``stat``, a grid of the last values; or ``gauge``, dials of them.
    """

    title: str = Field(min_length=1)
    query: str = ""
    rate: str = ""
    gauge: str = ""
    p95: str = ""
    by: tuple[str, ...] = ()
    unit: str = "short"
    legend: str = ""
    kind: Literal["timeseries", "stat", "gauge"] = "timeseries"

    @model_validator(mode="after")
    def _has_one_query(self) -> "Panel":
        if sum(map(bool, (self.query, self.rate, self.gauge, self.p95))) != 1:
            raise ValueError("set exactly one of query, rate, gauge and p95")
        return self

    @property
    def expression(self) -> str:
        """PromQL with ``SELECTOR`` in the place of the namespace's label matcher."""
        if self.query:
            return self.query
        labels = ", ".join(self.by)
        if self.rate:
            return f"sum by ({labels}) (rate({self.rate}SELECTOR[5m]))"
        if self.gauge:
            return f"sum by ({labels}) ({self.gauge}SELECTOR)"
        buckets = ", ".join(("le", *self.by))
        rate = f"rate({self.p95}_bucketSELECTOR[5m])"
        return f"histogram_quantile(0.95, sum by ({buckets}) ({rate}))"

    @property
    def line_legend(self) -> str:
        """Legend of each line, in Grafana's template syntax."""
        return self.legend or " ".join(f"{{{{{label}}}}}" for label in self.by) or "p95"


class Dashboard(Strict):
    """Panels for one dashboard; services that name the same dashboard share it.

    Attributes:
        name: File name without suffix, in ``charts/dashboards``.
        title: Title; stated by exactly one of the services that share the dashboard.
        panels: Panels in the order in which they are shown.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    title: str = ""
    panels: tuple[Panel, ...] = Field(min_length=1)


class Recording(Strict):
    """One recording rule of Prometheus, evaluated before all alerting rules.

    Attributes:
        record: Name ``<labels>:<metric>:<operations>``.
        expr: PromQL expression that is recorded; later rules may name it.
    """

    record: str = Field(pattern=r"^[a-z_]+:[a-z0-9_]+:[a-z0-9_]+$")
    expr: str = Field(min_length=1)


class Alert(Strict):
    """One alerting rule of Prometheus; ``docs/operations.md`` has a section of its name.

    Attributes:
        alert: Name in CamelCase.
        expr: PromQL expression that fires the alert.
        for_: Time for which the expression must hold, such as ``5m``; empty fires at once.
        severity: ``critical`` or ``warning``.
        summary: One sentence: what is wrong.
        description: One sentence: what to do.
    """

    alert: str = Field(pattern=r"^Bem[A-Za-z]+$")
    expr: str = Field(min_length=1)
    for_: str = Field("", alias="for", pattern=r"^([0-9]+[smh])?$")
    severity: Literal["critical", "warning"]
    summary: str = Field(min_length=1)
    description: str = Field(min_length=1)
