"""The initial weights of all members, found before any other work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tercet.config.run import MemberConfig
from tercet.core.errors import ConfigError, ModelError
from tercet.core.output import printable
from tercet.models.hub import RemoteFile, fetch
from tercet.models.registry import registered_network
from tercet.models.timm_networks import NOT_PUBLISHED, find_network, needed_files, weights_file

_OFFLINE = "use small networks, which need none (--members small-cnn,row-lstm), or train from scratch with "
_OFFLINE += "--pretrained false"


def missing_weights(members: Sequence[MemberConfig]) -> dict[str, str]:
    """Return, by member, why initial weights are not available; empty if all are.

    Weights that are in no local cache are downloaded. Without a network it takes at most about three seconds for all
    members together: every host is tried once, all at the same time.
    """
    reasons: dict[str, str] = {}
    needed: dict[str, tuple[RemoteFile, ...]] = {}
    for member in members:
        config = member.model
        if registered_network(member.network) is not None:
            continue
        if config.weights is not None and not Path(config.weights).expanduser().is_file():
            reasons[member.name] = f"weights file {config.weights} does not exist"
        elif config.weights is None and config.pretrained and weights_file(member.network) is None:
            reasons[member.name] = NOT_PUBLISHED
        else:
            needed[member.name] = needed_files(member.network, config)
    failures = fetch(file for files in needed.values() for file in files)[1]
    for name, files in needed.items():
        if failed := [file for file in files if file in failures]:
            reasons[name] = failures[failed[0]]
    return {member.name: reasons[member.name] for member in members if member.name in reasons}


def check_weights(members: Sequence[MemberConfig]) -> None:
    """Find the initial weights of all members, downloading published ones, before any other work starts.

    Raises:
        ConfigError: Different networks are to start from one file.
        ModelError: Weights are missing; one line for each member.
    """
    reasons = missing_weights(members)
    if reasons:
        lines = _describe(reasons, {member.name: member.network for member in members})
        raise ModelError("\n".join(lines), tuple(lines))
    _check_shared_files(members)


def _describe(reasons: Mapping[str, str], networks: Mapping[str, str]) -> list[str]:
    distinct = {(networks[name], reason): name for name, reason in reasons.items()}  # a probe has those of its network
    reasons = {name: reason for (_, reason), name in distinct.items()}
    names = [
        f"'{networks[name]}'" if networks[name] == name else f"'{printable(name)}' ({networks[name]})"
        for name in reasons
    ]
    if len(reasons) == 1:
        reason = next(iter(reasons.values()))
        return [f"no pretrained weights for {names[0]}: {reason}; set --weights FILE, {_OFFLINE}"]
    lines = [f"  {name}: {reason}" for name, reason in zip(names, reasons.values(), strict=True)]
    mapping = f"{{model: {networks[next(iter(reasons))]}, weights: FILE}}"
    remedy = f"give each member its file (--members '{mapping}, ...'), {_OFFLINE}"
    return [f"no pretrained weights for {len(reasons)} members:", *lines, remedy]


def _check_shared_files(members: Sequence[MemberConfig]) -> None:
    """Raise if members of different architectures start from the same file."""
    owners: dict[str, str] = {}
    for member in members:
        file, network = member.model.weights, member.network
        if file is None or registered_network(network) is not None:
            continue
        other = owners.setdefault(file, network)
        if other != network and _architecture(other) != _architecture(network):
            raise ConfigError(
                f"--weights {file} is the file of one network, not of '{other}' and '{network}': give each its own, "
                f"--members '{{model: {other}, weights: FILE}}, {{model: {network}, weights: FILE}}'"
            )


def _architecture(network: str) -> str:
    """Return a network's name in timm's registry, without the tag of its weights."""
    return find_network(network).architecture.partition(".")[0]
