#!/usr/bin/env python3
"""Writes data/molecules.xyz: neutral organic molecules of H C N O F S Cl, spread evenly over 9 to 60 atoms.

SMILES, a file with one SMILES first in each line, is read in random order; a molecule is kept if its size is still
wanted. Conformers are RDKit's ETKDG embeddings. Needs rdkit; only to make the file anew.
"""

import argparse
import random
from pathlib import Path

from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem

ELEMENTS = {1, 6, 7, 8, 9, 16, 17}
SEED = 7


def is_wanted(molecule):
    """Neutral and closed-shell, one fragment, known elements without isotopes."""
    if molecule is None or len(Chem.GetMolFrags(molecule)) != 1:
        return False
    return all(
        a.GetAtomicNum() in ELEMENTS and not (a.GetIsotope() or a.GetFormalCharge() or a.GetNumRadicalElectrons())
        for a in molecule.GetAtoms()
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("smiles", type=Path, help="file of SMILES, one first in each line")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "data/molecules.xyz")
    parser.add_argument("--n-molecules", type=int, default=128)
    args = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    wanted = [9 + round(51 * k / (args.n_molecules - 1)) for k in range(args.n_molecules)]
    lines = sorted({line.split()[0] for line in args.smiles.read_text().splitlines() if line.strip()})
    random.Random(SEED).shuffle(lines)
    found = []
    for smiles in lines:
        if not wanted:
            break
        molecule = Chem.MolFromSmiles(smiles)
        if not is_wanted(molecule):
            continue
        molecule = Chem.AddHs(molecule)
        if molecule.GetNumAtoms() not in wanted or AllChem.EmbedMolecule(molecule, randomSeed=SEED) != 0:
            continue
        wanted.remove(molecule.GetNumAtoms())
        found.append((molecule.GetNumAtoms(), Chem.MolToSmiles(Chem.RemoveHs(molecule)), molecule))
    if wanted:
        raise SystemExit(f"make_molecules.py: no molecule of {sorted(set(wanted))} atoms in {args.smiles}")
    with args.output.open("w") as file:
        for n_atoms, smiles, molecule in sorted(found, key=lambda entry: entry[:2]):
            file.write(f'{n_atoms}\nProperties=species:S:1:pos:R:3 smiles="{smiles}"\n')
            for atom, (x, y, z) in zip(molecule.GetAtoms(), molecule.GetConformer().GetPositions()):
                file.write(f"{atom.GetSymbol():2} {x:10.5f} {y:10.5f} {z:10.5f}\n")
    print(f"{len(found)} molecules written to {args.output}")


if __name__ == "__main__":
    main()
