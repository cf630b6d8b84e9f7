//! Odd files through the program: what is evaluated, what is said, and that its own output is not changed by it.

use super::support::{Sandbox, assert_same, predictions, water, waters};

const ODD: [&str; 9] = [
    "column_tags_not_integer.xyz",
    "element_column.xyz",
    "lower_case_properties.xyz",
    "skewed_equivalent_cell.xyz",
    "skewed_reduced_cell.xyz",
    "star_exponent.xyz",
    "three_molecules_trailing_lines.xyz",
    "two_files_with_bom_joined.xyz",
    "zero_padded.xyz.gz",
];

fn odd(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/xyz-odd/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn odd_files_are_predicted_and_their_output_is_stable() {
    let sandbox = Sandbox::new();
    let mut all = Vec::new();
    for (k, name) in ODD.into_iter().enumerate() {
        sandbox.write(name, odd(name));
        // One thread and one frame a batch: the bits do not depend on either, and this is quicker.
        sandbox.run(&format!("predict {name} -o {k}.a.xyz --dtype f64")).expect(0);
        sandbox.run(&format!("predict {k}.a.xyz -o {k}.b.xyz --dtype f64")).expect(0);
        assert_eq!(sandbox.text(&format!("{k}.a.xyz")), sandbox.text(&format!("{k}.b.xyz")), "{name}");
        all.push(predictions(&sandbox.path(&format!("{k}.a.xyz")), "MLFF_"));
    }
    let sizes: Vec<usize> = all.iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 1, 1, 1, 1, 1, 3, 2, 1]);
    assert_same(&all[3], &all[4], 1e-9);
    assert_same(&all[0], &all[1], 0.0);
    assert_same(&all[1], &all[2], 0.0);
}

#[test]
fn odd_things_are_said() {
    let sandbox = Sandbox::new();
    sandbox.write("tags.xyz", odd("column_tags_not_integer.xyz"));
    sandbox.run("predict tags.xyz -o - -v").expect(0).says(&["column tags:I holds \"1.5\" in line 3"]);
    sandbox.write("tail.xyz", odd("three_molecules_trailing_lines.xyz"));
    sandbox.run("check tail.xyz").expect(0).says(&["frame 0: three lines behind the atoms", "2 more"]);
    sandbox.write("cut.xyz", waters(2).trim_end_matches("7\n"));
    sandbox.run("predict cut.xyz -o - -v").expect(0).says(&["frame 1: the last line has no line end"]);
}

#[test]
fn frames_beyond_the_limit_are_refused_by_every_command() {
    let sandbox = Sandbox::new();
    let large = format!("100\n\n{}", "H 0 0 0\n".repeat(100));
    sandbox.write("in.xyz", water(0).replace("frame=0", "frame=0 energy=-2079.0") + &large + &water(1));
    for command in
        ["predict in.xyz -o out.xyz", "eval in.xyz", "check in.xyz", "predict in.xyz -o o.xyz --on-error skip"]
    {
        let ran = sandbox.run(&format!("{command} --max-frame 800")).expect(1);
        let place = "in.xyz: frame 1, line 33: the frame is larger than 25 atoms";
        ran.says(&[place, "--max-frame"]);
    }
    sandbox.run("check in.xyz --max-frame 3.2K").expect(0);
    sandbox.run("check in.xyz --max-frame 3X").expect(2).says(&["expected a number of bytes"]);
    let ran = sandbox.run("predict in.xyz -o p.xyz --on-error skip").expect(1);
    ran.says(&["3 structures", "overlap"]);
}

#[test]
fn ragged_lines_do_not_multiply_the_output() {
    let sandbox = Sandbox::new();
    let n = 2000;
    let mut text = format!("{n}\n\nH 0 0 0{}\n", " 1".repeat(n));
    (1..n).for_each(|k| text.push_str(&format!("H {} 0 0\n", 3 * k)));
    sandbox.write("in.xyz", water(0) + &text + &water(1));
    sandbox
        .run("predict in.xyz -o out.xyz")
        .expect(1)
        .says(&["frame 1, line 6: atom lines have from 4 to 2004 columns"]);
    sandbox.run("predict in.xyz -o out.xyz --on-error skip").expect(1).says(&["3 structures", "1 failed"]);
    assert!(sandbox.bytes("out.xyz").len() < 2 * text.len());
}
