//! `mlff predict` that succeeds.

use std::io::Read;

use super::support::{Predicted, Sandbox, assert_same, mixed, predictions, predictions_in, water, waters};

fn frames(predicted: &[Predicted]) -> Vec<usize> {
    predicted.iter().map(|p| p.frame.unwrap()).collect()
}

#[test]
fn output_stands_beside_the_input() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("runs")).unwrap();
    sandbox.write("runs/a.b.extxyz", waters(3));
    sandbox.run("predict runs/a.b.extxyz").expect(0).says(&["3 structures, 9 atoms", "runs/a.b.mlff.xyz"]);
    let got = predictions(&sandbox.path("runs/a.b.mlff.xyz"), "MLFF_");
    assert_eq!(frames(&got), [0, 1, 2]);
    assert!(got.iter().all(|p| p.energy.is_some() && p.forces.is_some() && p.stress.is_none()));
    assert_eq!(sandbox.run("predict runs/a.b.extxyz -q -o b.xyz").expect(0).err, "");
    assert_eq!(sandbox.bytes("b.xyz"), sandbox.bytes("runs/a.b.mlff.xyz"));
    assert_eq!(sandbox.files(), ["b.xyz", "runs"]);
}

#[test]
fn packed_outputs_hold_the_plain_one() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", mixed(12));
    sandbox.run("predict in.xyz -o out.xyz").expect(0);
    let unpack = |name: &str| -> Vec<u8> {
        let file = std::fs::File::open(sandbox.path(name)).unwrap();
        let mut reader: Box<dyn Read> = match name.rsplit('.').next().unwrap() {
            "gz" => Box::new(flate2::read::MultiGzDecoder::new(file)),
            "bz2" => Box::new(bzip2::read::MultiBzDecoder::new(file)),
            "xz" => Box::new(liblzma::read::XzDecoder::new_multi_decoder(file)),
            _ => Box::new(zstd::stream::read::Decoder::new(file).unwrap()),
        };
        let mut out = Vec::new();
        reader.read_to_end(&mut out).unwrap();
        out
    };
    for name in ["out.xyz.gz", "out.xyz.bz2", "out.xyz.xz", "out.xyz.zst"] {
        sandbox.run(&format!("predict in.xyz -o {name}")).expect(0);
        assert!(unpack(name) == sandbox.bytes("out.xyz"), "{name}");
        // And packed files are read, whatever they are called.
        std::fs::rename(sandbox.path(name), sandbox.path("packed")).unwrap();
        sandbox.run("predict packed -o again.xyz --overwrite").expect(0);
        let (got, want) = (sandbox.path("again.xyz"), sandbox.path("out.xyz"));
        assert_same(&predictions(&got, "MLFF_"), &predictions(&want, "MLFF_"), 0.0);
    }
}

#[test]
fn dash_is_standard_input_and_output() {
    let sandbox = Sandbox::new();
    let input = mixed(9);
    sandbox.write("in.xyz", &input);
    sandbox.run("predict in.xyz -o out.xyz").expect(0);
    let want = sandbox.bytes("out.xyz");
    for (args, stdin) in [("predict -", &input[..]), ("predict - -o -", &input), ("predict in.xyz -o -", "")] {
        assert!(sandbox.run_on(args, stdin.as_bytes()).expect(0).out == want, "{args}");
    }
    sandbox.run_on("predict - -o from-stdin.xyz", input.as_bytes()).expect(0);
    assert!(sandbox.bytes("from-stdin.xyz") == want);
    let packed = zstd::encode_all(input.as_bytes(), 1).unwrap();
    assert!(sandbox.run_on("predict -", &packed).expect(0).out == want, "packed standard input");
}

#[test]
fn frame_by_frame_conversation_over_pipes() {
    use std::io::{BufRead, BufReader, Write};
    let sandbox = Sandbox::new();
    let mut child = sandbox.command("predict - -q --batch 1").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    for k in 0..3 {
        stdin.write_all(water(k).as_bytes()).unwrap();
        let answer: Vec<String> = answers.by_ref().take(5).map(Result::unwrap).collect();
        assert!(answer[1].contains(&format!("frame={k} ")) && answer[1].contains("MLFF_energy="), "{answer:?}");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn several_inputs_have_outputs_of_their_own_or_one() {
    let sandbox = Sandbox::new();
    sandbox.write("a.xyz", water(0) + &water(1));
    sandbox.write("b.xyz", water(2));
    sandbox.run("predict a.xyz b.xyz").expect(0).says(&["3 structures", "a.mlff.xyz", "b.mlff.xyz"]);
    let [a, b] = ["a.mlff.xyz", "b.mlff.xyz"].map(|name| sandbox.text(name));
    sandbox.run("predict a.xyz b.xyz -o both.xyz").expect(0);
    // What made a file is said in its first frame only.
    let record = b.find(" MLFF_made_by=").unwrap();
    let b = [&b[..record], &b[b.find("\nO ").unwrap()..]].concat();
    assert_eq!(sandbox.text("both.xyz"), a + &b);
    sandbox.write("a.extxyz", water(0));
    sandbox.run("predict a.xyz a.extxyz --overwrite").expect(2).says(&["two inputs would be written to a.mlff.xyz"]);
}

#[test]
fn index_selects_as_python_does() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", waters(10));
    for (index, want) in [
        (":", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9][..]),
        ("3", &[3]),
        ("-1", &[9]),
        ("7:", &[7, 8, 9]),
        (":-7", &[0, 1, 2]),
        ("-3::2", &[7, 9]),
        ("1:8:3", &[1, 4, 7]),
        ("5:100", &[5, 6, 7, 8, 9]),
    ] {
        let ran = sandbox.run(&format!("predict in.xyz -o - --index {index}")).expect(0);
        assert_eq!(frames(&predictions_in(&ran.out, "MLFF_")), want, "{index}");
    }
    for index in ["10", "-11"] {
        let ran = sandbox.run(&format!("predict in.xyz -o out.xyz --index {index}")).expect(2);
        ran.says(&["in.xyz does not have", "it has 10"]);
    }
    for index in ["20:", "4:4"] {
        sandbox.run(&format!("predict in.xyz -o out.xyz --index {index}")).expect(2).says(&["selects no frame"]);
    }
    for index in ["::0", "::-1", "1.5", "a", "1:2:3:4"] {
        sandbox.run(&format!("predict in.xyz -o out.xyz --index {index}")).expect(2).says(&["--index"]);
    }
    let ran = sandbox.run_on("predict - --index -1", waters(3).as_bytes()).expect(2);
    ran.says(&["counts from the end", "standard input"]);
    let ran = sandbox.run_on("predict - --index 1::2", waters(6).as_bytes()).expect(0);
    assert_eq!(frames(&predictions_in(&ran.out, "MLFF_")), [1, 3, 5]);
    assert_eq!(sandbox.files(), ["in.xyz"]);
}

#[test]
fn properties_are_those_asked_for() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", mixed(4));
    let run = |properties: &str| {
        let ran = sandbox.run(&format!("predict in.xyz -o - --dtype f64 --properties {properties}")).expect(0);
        predictions_in(&ran.out, "MLFF_")
    };
    let all = run("energy,forces,stress");
    assert_eq!(all.iter().map(|p| p.stress.is_some()).collect::<Vec<_>>(), [false, false, true, false]);
    for (properties, forces, stress) in
        [("energy", false, false), ("forces", true, false), ("energy,forces", true, false), ("stress", false, true)]
    {
        let mut want = all.clone();
        for p in &mut want {
            p.forces = p.forces.take().filter(|_| forces);
            p.stress = p.stress.take().filter(|_| stress);
        }
        assert_same(&run(properties), &want, 1e-12);
    }
}

#[test]
fn key_prefix_names_the_results() {
    let sandbox = Sandbox::new();
    let labelled = water(0).replace("frame=0", "frame=0 Properties=species:S:1:pos:R:3 energy=-1.5 MLFF_energy=7");
    sandbox.write("in.xyz", labelled + &mixed(3)[water(0).len()..]);
    sandbox.run("predict in.xyz -o m.xyz").expect(0);
    let want = predictions(&sandbox.path("m.xyz"), "MLFF_");
    assert_eq!(predictions(&sandbox.path("m.xyz"), "")[0].energy, Some(-1.5), "labels survive");
    assert!(!sandbox.text("m.xyz").contains("MLFF_energy=7"), "an earlier result does not");
    sandbox.run("predict in.xyz -o s.xyz --key-prefix student-1_").expect(0);
    assert_same(&predictions(&sandbox.path("s.xyz"), "student-1_"), &want, 0.0);
    sandbox.run("predict in.xyz -o bare.xyz --key-prefix ''").expect(0);
    assert_same(&predictions(&sandbox.path("bare.xyz"), ""), &want, 0.0);
    let bare = sandbox.text("bare.xyz");
    assert_eq!(bare.matches(" free_energy=").count(), 3);
    assert!(bare.contains(":forces:R:3 ") && bare.contains(" stress=\"") && !bare.contains("energy=-1.5 "));
    sandbox.run("predict in.xyz -o x.xyz --key-prefix 1x").expect(2).says(&["key prefix"]);
}

#[test]
fn precisions_agree() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", mixed(8));
    let run = |dtype: &str| {
        predictions_in(&sandbox.run(&format!("predict in.xyz -o - --dtype {dtype}")).expect(0).out, "MLFF_")
    };
    let (single, double) = (run("f32"), run("f64"));
    assert_same(&single, &double, 1e-3);
    assert_ne!(single, double);
}

#[test]
fn batches_and_threads_change_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", mixed(60));
    sandbox.run("predict in.xyz -o auto.xyz --dtype f64").expect(0);
    let want = predictions(&sandbox.path("auto.xyz"), "MLFF_");
    assert_eq!(frames(&want), (0..60).collect::<Vec<_>>());
    for flags in ["--batch 1", "--batch 7", "--batch 1000", "--batch auto", "--threads 1", "--threads 2 --batch 8"] {
        let ran = sandbox.run(&format!("predict in.xyz -o - --dtype f64 {flags}")).expect(0);
        assert_same(&predictions_in(&ran.out, "MLFF_"), &want, 1e-9);
    }
    sandbox.run("predict in.xyz -o t.xyz --threads 1 --summary s.json").expect(0).says(&["on 1 threads"]);
    assert_eq!(sandbox.json("s.json")["threads"], 1);
}

#[test]
fn summary_says_what_was_done() {
    let sandbox = Sandbox::new();
    sandbox.write("a.xyz", waters(4));
    sandbox.write("b.xyz", water(4) + "1\n\nHe 0 0 0\n");
    let ran = sandbox.run("predict a.xyz b.xyz --on-error skip --summary s.json --dtype f64 --device cpu");
    ran.expect(1).says(&["6 structures, 16 atoms", "1 failed", "b.xyz: frame 1, line 6: element He"]);
    let s = sandbox.json("s.json");
    assert_eq!(s["tool"], format!("mlff {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(s["model"], mlff::model::default_name());
    assert_eq!((&s["device"], &s["dtype"]), (&"cpu".into(), &"f64".into()));
    assert_eq!(s["inputs"], serde_json::json!(["a.xyz", "b.xyz"]));
    assert_eq!(s["outputs"], serde_json::json!(["a.mlff.xyz", "b.mlff.xyz"]));
    for (key, want) in [("n_frames", 6), ("n_failed", 1), ("n_atoms", 16), ("n_resumed", 0), ("n_warnings", 0)] {
        assert_eq!(s[key], want, "{key}");
    }
    for key in ["wall_s", "structures_per_s", "atoms_per_s"] {
        assert!(s[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let failure = &s["failures"][0];
    assert_eq!((&failure["file"], &failure["frame"], &failure["line"]), (&"b.xyz".into(), &1.into(), &6.into()));
    assert!(failure["reason"].as_str().unwrap().contains("element He"));
    // Written for a run that fails, too.
    sandbox.run("predict b.xyz -o c.xyz --summary t.json").expect(1);
    assert_eq!(sandbox.json("t.json")["n_failed"], 1);
}

#[test]
fn empty_frames_have_no_energy_to_speak_of() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", format!("0\nframe=0\n{}0\nframe=2 Lattice=\"3 0 0 0 3 0 0 0 3\"\n", water(1)));
    sandbox.run("predict in.xyz -o out.xyz").expect(0);
    let got = predictions(&sandbox.path("out.xyz"), "MLFF_");
    assert_eq!(frames(&got), [0, 1, 2]);
    for k in [0, 2] {
        assert_eq!((got[k].energy, got[k].forces.as_deref()), (Some(0.0), Some(&[][..])));
    }
    assert_eq!(got[2].stress, Some([[0.0; 3]; 3]));
}

/// More frames than any chunk holds.
#[test]
fn many_frames_keep_their_order() {
    let sandbox = Sandbox::new();
    let text: String = (0..3500).map(|k| format!("1\nframe={k}\n{} 0 0 {k}\n", ["H", "O", "C"][k % 3])).collect();
    sandbox.write("in.xyz", text);
    sandbox.run("predict in.xyz -o out.xyz.gz").expect(0);
    let got = predictions(&sandbox.path("out.xyz.gz"), "MLFF_");
    assert_eq!(frames(&got), (0..3500).collect::<Vec<_>>());
    for (k, p) in got.iter().enumerate() {
        assert!(p.energy == got[k % 3].energy && p.forces == Some(vec![[0.0; 3]]), "{p:?}");
    }
}
