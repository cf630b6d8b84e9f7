#!/usr/bin/env python3
"""Export a pickled SchNetPack 2 model to files that `mlff import schnetpack` reads.

IN   the `best_model` that SchNetPack writes: torch.save of a NeuralNetworkPotential with a PaiNN representation, an
     Atomwise energy and, if there are any, postprocessors (CastTo64, ScaleProperty, AddOffsets).
OUT  DIR/schnetpack_state_dict.safetensors and DIR/config.json, energies in eV.

    python scripts/export_schnetpack.py best_model -o exported --energy-unit Hartree
    mlff import schnetpack exported/schnetpack_state_dict.safetensors -o models/mine

Lengths of the model must be in Å. Needs torch, safetensors, ase and schnetpack; reading a pickle runs code that it
holds, so give it only files that you trust.
"""

import argparse
import json
import math
import pickle
import sys
import typing
from pathlib import Path

# CODATA 2022; e and the Avogadro constant are exact.
FARADAY = 96485.33212331001
EV_PER_UNIT = {"eV": 1.0, "Hartree": 27.211386245981, "kcal/mol": 4184.0 / FARADAY, "kJ/mol": 1000.0 / FARADAY}
# The cutoff and the radial basis stay in this unit; `mlff import` converts them.
LENGTH_UNITS = ("angstrom", "bohr", "nm")


class Refused(Exception):
    """What is wrong with the input, in words for its user."""


def import_schnetpack():
    """Returns the package `schnetpack`, imported such that pickles of its models can be read."""
    try:
        import torch.utils.data.dataloader as dataloader

        # SchNetPack up to 2.1 imports this name, which newer versions of PyTorch no longer have.
        if not hasattr(dataloader, "T_co"):
            dataloader.T_co = typing.TypeVar("T_co", covariant=True)
        import schnetpack
        import schnetpack.atomistic
        import schnetpack.model
        import schnetpack.nn
        import schnetpack.representation
        import schnetpack.transform
    except ImportError as error:
        raise Refused(f"SchNetPack 2 and what it needs must be installed to read its models: {error}") from error
    return schnetpack


def load(path):
    """Unpickles a model onto the CPU."""
    import torch

    try:
        model = torch.load(path, map_location="cpu", weights_only=False)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, EOFError, RuntimeError, ImportError, AttributeError, ValueError) as error:
        raise Refused(f"{path}: cannot be read as a pickled model: {error}") from error
    if isinstance(model, dict):
        raise Refused(
            f"{path}: holds a state dict or checkpoint, not a pickled model; "
            "`mlff import schnetpack` reads state dicts itself, with a config.json beside them"
        )
    return model


def export_model(model, unit="eV", energy_key="energy", species=None, postprocessors=None, length_unit="angstrom"):
    """Returns the tensors and the configuration of a SchNetPack model; `Refused` if it is not one that mlff evaluates.

    IN `unit` of the model's energy, one of EV_PER_UNIT; `length_unit` of its positions, one of LENGTH_UNITS; `species` as atomic
       numbers or None; `postprocessors`: "apply", "ignore", or None to follow the model and refuse where that is ambiguous.
    OUT tensors by name, configuration ready for JSON, notes for people.
    """
    spk = import_schnetpack()
    if not isinstance(model, spk.model.NeuralNetworkPotential):
        raise Refused(f"it is a {kind(model)}, expected a schnetpack.model.NeuralNetworkPotential")
    notes = []
    tensors, config = read_representation(spk, model.representation)
    for module in model.input_modules:
        if kind(module) not in ("PairwiseDistances", "Strain"):
            raise Refused(f"input module {kind(module)} is not supported; only PairwiseDistances and Strain are")
    energy = pick_energy(spk, model.output_modules, energy_key, notes)
    for name, tensor in energy.outnet.state_dict().items():
        tensors[f"output_modules.0.outnet.{name}"] = tensor

    offsets = read_postprocessors(model, energy_key, postprocessors, notes)
    factor = EV_PER_UNIT[unit]
    config["energy_unit"], config["length_unit"] = "eV", length_unit
    config["output_scale"] = offsets.scale * factor
    if offsets.mean != 0.0:
        config["mean"] = offsets.mean * factor
    n_rows = tensors["representation.embedding.weight"].shape[0]
    trained = [z for z, e in enumerate(offsets.atomrefs) if z > 0 and e != 0.0]
    species = sorted(set(species)) if species else trained
    for z in species:
        if z >= n_rows:
            raise Refused(f"element {z} has no row in the embedding, which ends at {n_rows - 1}")
    if trained:
        missing = [z for z in species if z not in trained]
        if missing:
            notes.append(f"elements {missing} have no atomic reference energy, others have")
        config["atomic_energies"] = {str(z): offsets.atomrefs[z] * factor for z in trained if z in species}
    if species:
        config["species"] = species
    else:
        notes.append("nothing says which elements were trained: every row of the embedding is exported; see --species")
    config["training"] = {"software": f"SchNetPack {getattr(model, 'spk_version', '2')}"}
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, config, notes


def read_representation(spk, painn):
    """Returns tensors and hyperparameters of a PaiNN."""
    import torch

    if type(painn) is not spk.representation.PaiNN:
        raise Refused(f"the representation is {kind(painn)}, only PaiNN is supported")
    if len(getattr(painn, "electronic_embeddings", [])) > 0:
        raise Refused("the model has electronic embeddings (charge, spin), which are not supported")
    if type(painn.embedding) is not torch.nn.Embedding:
        raise Refused(f"the nuclear embedding is {kind(painn.embedding)}, only torch.nn.Embedding is supported")
    if painn.embedding.max_norm is not None:
        raise Refused("the nuclear embedding has max_norm, which is not supported")
    if type(painn.cutoff_fn) is not spk.nn.CosineCutoff:
        raise Refused(f"the cutoff function is {kind(painn.cutoff_fn)}, only CosineCutoff is supported")
    bases = {spk.nn.GaussianRBF: "gaussian", spk.nn.BesselRBF: "bessel"}
    if type(painn.radial_basis) not in bases:
        raise Refused(f"the radial basis is {kind(painn.radial_basis)}, only GaussianRBF and BesselRBF are supported")
    layers = list(painn.interactions)
    mixings = list(painn.mixing)
    if not layers or len(layers) != painn.n_interactions or len(mixings) != painn.n_interactions:
        raise Refused(f"the model says {painn.n_interactions} interactions and has {len(layers)} and {len(mixings)}")
    for l, (interaction, mixing) in enumerate(zip(layers, mixings)):
        check_network(spk, interaction.interatomic_context_net, f"interaction {l}")
        check_network(spk, mixing.intraatomic_context_net, f"mixing {l}")
    epsilons = {float(m.epsilon) for m in mixings}
    if len(epsilons) != 1:
        raise Refused(f"the layers have different epsilon: {sorted(epsilons)}")
    f = painn.n_atom_basis
    n_rows = painn.filter_net.weight.shape[0]
    # The same object in every place, not merely equal numbers.
    shared = len(layers) > 1 and len({id(m) for m in layers}) == 1 and len({id(m) for m in mixings}) == 1
    tensors = {f"representation.{name}": tensor for name, tensor in painn.state_dict().items()}
    if shared:
        later = tuple(f"representation.{m}.{l}." for m in ("interactions", "mixing") for l in range(1, len(layers)))
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(later)}
    config = {
        "n_atom_basis": f,
        "n_interactions": painn.n_interactions,
        "radial_basis": bases[type(painn.radial_basis)],
        "n_rbf": painn.radial_basis.n_rbf,
        "cutoff": short_decimal(painn.cutoff_fn.cutoff),
        "cutoff_fn": "cosine",
        "shared_filters": n_rows == 3 * f and painn.n_interactions > 1,
        "shared_interactions": shared,
        "activation": "silu",
        "epsilon": epsilons.pop(),
    }
    return tensors, config


def check_network(spk, network, what):
    """Refuses anything but dense layers with SiLU between them and nothing after the last."""
    import torch

    layers = list(network)
    for k, layer in enumerate(layers):
        if type(layer) is not spk.nn.Dense:
            raise Refused(f"{what}: layer {k} is {kind(layer)}, expected Dense")
        is_last = k + 1 == len(layers)
        is_silu = layer.activation is torch.nn.functional.silu or type(layer.activation) is torch.nn.SiLU
        is_identity = type(layer.activation) is torch.nn.Identity
        if is_last and not is_identity:
            raise Refused(f"{what}: an activation after the last layer ({kind(layer.activation)}) is not supported")
        if not is_last and not is_silu:
            raise Refused(f"{what}: the activation is {kind(layer.activation)}, only silu is supported")


def pick_energy(spk, modules, key, notes):
    """Returns the Atomwise module that predicts the energy."""
    chosen = [m for m in modules if type(m) is spk.atomistic.Atomwise and m.output_key == key]
    if len(chosen) != 1:
        there = ", ".join(f"{kind(m)} ({getattr(m, 'output_key', '-')})" for m in modules) or "none"
        raise Refused(f"{len(chosen)} Atomwise modules predict '{key}', expected one; output modules: {there}; see --energy-key")
    energy = chosen[0]
    for module in modules:
        if module is energy or type(module) is spk.atomistic.Forces:
            continue
        if key in (getattr(module, "model_outputs", None) or []) or getattr(module, "output_key", None) == key:
            raise Refused(f"output module {kind(module)} changes '{key}' after the network, which is not supported")
        notes.append(f"output module {kind(module)} is left out: only the energy and its derivatives are evaluated")
    if energy.aggregation_mode != "sum":
        raise Refused(f"aggregation_mode of '{key}' is {energy.aggregation_mode}, only sum is supported")
    check_network(spk, energy.outnet, f"output '{key}'")
    if energy.outnet[-1].weight.shape[0] != 1:
        raise Refused(f"output '{key}' has {energy.outnet[-1].weight.shape[0]} values an atom, expected 1")
    return energy


class Offsets:
    """Energy = scale · network + mean · atoms + Σ atomrefs, in the model's unit."""

    def __init__(self):
        self.scale = 1.0
        self.mean = 0.0
        self.atomrefs = []

    def multiply(self, factor):
        self.scale *= factor
        self.mean *= factor
        self.atomrefs = [e * factor for e in self.atomrefs]

    def add_atomrefs(self, energies, sign):
        n = max(len(energies), len(self.atomrefs))
        pad = lambda values: values + [0.0] * (n - len(values))
        self.atomrefs = [a + sign * b for a, b in zip(pad(self.atomrefs), pad(energies))]


def read_postprocessors(model, key, choice, notes):
    """Composes what the postprocessors do to the energy, in their order."""
    offsets = Offsets()
    steps = [p for p in model.postprocessors if kind(p) not in ("CastMap", "CastTo32", "CastTo64")]
    if choice == "ignore":
        return offsets
    if steps and choice is None and not model.do_postprocessing:
        raise Refused(
            f"the model has postprocessors ({', '.join(map(kind, steps))}) and says not to use them: "
            "choose --postprocessors apply or ignore"
        )
    derivative_scales = {}
    for step in steps:
        name = kind(step)
        if name == "ScaleProperty":
            scale = number(step.scale, "ScaleProperty.scale")
            touched = {step.input_key, step.output_key}
            if touched == {key}:
                offsets.multiply(scale)
            elif key in touched:
                raise Refused(f"ScaleProperty writes {step.output_key} from {step.input_key}, which is not supported")
            elif touched in ({"forces"}, {"stress"}):
                derivative_scales[step.input_key] = derivative_scales.get(step.input_key, 1.0) * scale
            else:
                notes.append(f"ScaleProperty of {step.input_key} is left out")
        elif name in ("AddOffsets", "RemoveOffsets"):
            sign = 1.0 if name == "AddOffsets" else -1.0
            verb = "add" if name == "AddOffsets" else "remove"
            if step._property != key:
                notes.append(f"{name} of {step._property} is left out")
                continue
            if not step.is_extensive:
                raise Refused(f"{name} with is_extensive=False is not supported: energies are sums over atoms")
            if getattr(step, f"{verb}_mean"):
                offsets.mean += sign * number(step.mean, f"{name}.mean")
            if getattr(step, f"{verb}_atomrefs"):
                atomrefs = step.atomref.detach().double().reshape(-1).tolist()
                if step.atomref.numel() != step.atomref.shape[0] or not all(map(math.isfinite, atomrefs)):
                    raise Refused(f"{name}.atomref has shape {list(step.atomref.shape)} or is not finite")
                offsets.add_atomrefs(atomrefs, sign)
        else:
            raise Refused(f"postprocessor {name} is not supported")
    for name, scale in derivative_scales.items():
        if not math.isclose(scale, offsets.scale, rel_tol=1e-6):
            notes.append(
                f"the model scales {name} by {scale:g} and energies by {offsets.scale:g}; "
                f"here {name} are always the derivative of the energy"
            )
    return offsets


def number(tensor, name):
    """Returns the one number that a buffer holds."""
    values = tensor.detach().double().reshape(-1).tolist()
    if len(values) != 1 or not math.isfinite(values[0]):
        raise Refused(f"{name} has shape {list(tensor.shape)}, expected one finite number")
    return values[0]


def short_decimal(tensor):
    """Returns the number that was meant: 5.1 for the float32 nearest to it."""
    value = number(tensor, "cutoff")
    return float(f"{value:.7g}")


def kind(value):
    """Returns the name that people know a module, function or class by."""
    return getattr(value, "__name__", None) or type(value).__name__


def write(folder, tensors, config):
    """Writes both files into a new or empty directory."""
    from safetensors.torch import save_file

    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise Refused(f"{folder} exists already and is not empty; choose a new directory")
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "schnetpack_state_dict.safetensors")
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    except OSError as error:
        raise Refused(f"{folder}: {error.strerror or error}") from error


def parse_species(text):
    """Turns H,C,O into atomic numbers."""
    from ase.data import atomic_numbers

    symbols = [s.strip() for s in text.split(",") if s.strip()]
    wrong = [s for s in symbols if atomic_numbers.get(s, 0) < 1]
    if wrong or not symbols:
        raise Refused(f"--species: {', '.join(wrong) or 'nothing'} is no element, expected such as H,C,N,O")
    return [atomic_numbers[s] for s in symbols]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="pickled model (SchNetPack's best_model)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="directory to write")
    parser.add_argument("--energy-unit", choices=EV_PER_UNIT, help="unit of the model's energy [eV]")
    parser.add_argument("--length-unit", choices=LENGTH_UNITS, help="unit of the positions it was trained on [angstrom]")
    parser.add_argument("--energy-key", default="energy", help="output key of the energy [energy]")
    parser.add_argument(
        "--species",
        metavar="SYMBOLS",
        help="elements the model was trained on, such as H,C,N,O [those with an atomic reference energy, else all]",
    )
    parser.add_argument(
        "--postprocessors",
        choices=("apply", "ignore"),
        help="whether scale and offsets belong to the energy, for models saved with postprocessing switched off",
    )
    args = parser.parse_args()
    try:
        species = parse_species(args.species) if args.species else None
        import_schnetpack()
        model = load(args.model)
        unit, length_unit = args.energy_unit or "eV", args.length_unit or "angstrom"
        tensors, config, notes = export_model(model, unit, args.energy_key, species, args.postprocessors, length_unit)
        for flag, given, taken in (("energy", args.energy_unit, unit), ("length", args.length_unit, length_unit)):
            if given is None:
                notes.append(f"the model does not say its unit of {flag}: {taken} is assumed; see --{flag}-unit")
        write(args.output, tensors, config)
    except Refused as error:
        sys.exit(f"export_schnetpack.py: {error}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"written to {args.output}; next: mlff import schnetpack {args.output}/schnetpack_state_dict.safetensors -o MODEL")


if __name__ == "__main__":
    main()
