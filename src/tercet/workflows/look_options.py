"""The options of verbs that show: what may follow `tercet VERB`, without the weight of the work itself."""

from __future__ import annotations

from tercet.records.audit_config import AuditConfig
from tercet.records.config import DataConfig
from tercet.records.options import Options, Positional
from tercet.workflows.options import ALIASES, OutputConfig

AUDIT = Options(
    "audit",
    "Look at a data set before training: bad images, copies, leaks, labels. Told are unreadable images, equal and near "
    "duplicates within and across splits, groups in several splits, small and missing classes and, with --run, "
    "suspicious labels. With --output a page shows them.",
    groups=[("", AuditConfig), ("data", DataConfig), ("", OutputConfig)],
    positionals=[Positional("data", "folder of images by class, table, zip, or name of a data set")],
    aliases=ALIASES,
    examples=["photos/ --output look/", "photos/ --fail-on leakage,unreadable"],
)
