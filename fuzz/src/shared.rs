//! What targets share: mutation of JSON, and engines compared on a network that was accepted.

use std::sync::Arc;

use mlff::{EngineKind, Precision};
use mlff::{Evaluation, Want};
use mlff::{Model, Potential, Structure};
use serde_json::Value;

use super::random::Random;

/// Changes one thing somewhere in a JSON tree.
pub fn mutate_json(value: &mut Value, r: &mut Random) {
    match value {
        Value::Object(map) if !map.is_empty() && r.below(8) > 0 => {
            let keys: Vec<String> = map.keys().cloned().collect();
            let key = r.pick(&keys);
            match r.below(8) {
                0 => drop(map.remove(key)),
                1 => drop(map.insert(format!("{key}x"), map[key].clone())),
                _ => mutate_json(&mut map[key], r),
            }
        }
        Value::Array(items) if !items.is_empty() && r.below(6) > 0 => {
            let k = r.below(items.len());
            match r.below(6) {
                0 => drop(items.remove(k)),
                1 => items.insert(k, items[k].clone()),
                _ => mutate_json(&mut items[k], r),
            }
        }
        Value::Number(n) if r.below(3) > 0 => {
            if let Some(i) = n.as_i64() {
                let near = [i.wrapping_add(1), i.wrapping_sub(1), i.wrapping_mul(2), 0, i64::MAX];
                *value = if r.below(6) == 0 { u64::MAX.into() } else { (*r.pick(&near)).into() };
            } else if let Some(x) = n.as_f64() {
                let factor = *r.pick(&[0.0, -1.0, 1e-300, 1e300, 0.5, 2.0]);
                *value = serde_json::Number::from_f64(x * factor).map_or(Value::Null, Value::Number);
            }
        }
        _ => {
            let others = [
                Value::Null,
                true.into(),
                0.into(),
                "painn".into(),
                "gaussian".into(),
                "kcal/mol".into(),
                Value::Array(vec![]),
                Value::Object(Default::default()),
                1e-310.into(),
                118.into(),
            ];
            *value = r.pick(&others).clone();
        }
    }
}

/// As [`mutate_json`], of text; now and then a key is given twice. Text that is no JSON stays.
pub fn mutate_json_text(text: &[u8], r: &mut Random) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else { return text.to_vec() };
    for _ in 0..1 + r.below(3) {
        mutate_json(&mut value, r);
    }
    let mut out = serde_json::to_vec(&value).unwrap_or_default();
    if r.below(16) == 0 && out.first() == Some(&b'{') && out.len() > 2 {
        let inside = out[1..out.len() - 1].to_vec();
        out.truncate(out.len() - 1);
        out.push(b',');
        out.extend(inside);
        out.push(b'}');
    }
    out
}

fn two_waters() -> Structure {
    let mut positions = vec![[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]];
    positions.extend([[2.9, 0.1, 0.2], [3.5, 0.7, 0.1], [3.3, -0.7, 0.0]]);
    Structure::molecule(vec![8, 1, 1, 8, 1, 1], positions).expect("a sound structure")
}

/// Evaluates with both engines in both precisions: no panic, finite results, and agreement where both have some.
pub fn evaluate(model: Model, what: &str) {
    let config = model.config();
    // Time is for the code that reads, not for large networks.
    if config.n_features() > 64 || config.n_interactions() > 8 || model.n_parameters() > 200_000 || config.cutoff > 30.0
    {
        return;
    }
    let model = Arc::new(model);
    let mut structure = two_waters();
    let species = &model.config().species;
    if !species.contains(&8) || !species.contains(&1) {
        structure.atomic_numbers = vec![species[0]; 6];
    }
    let run = |precision, engine| {
        let potential =
            Potential::builder(model.clone()).precision(precision).engine(engine).build().expect("a validated model");
        potential.evaluate_one(&structure, Want::ALL).ok()
    };
    let single = run(Precision::F32, EngineKind::Auto);
    assert!(single.is_none_or(|e| e.energy.is_finite()), "{what}");
    if let (Some(a), Some(b)) = (run(Precision::F64, EngineKind::Auto), run(Precision::F64, EngineKind::Autograd)) {
        let scale = 1.0 + largest(&a).max(largest(&b));
        let forces = |e: &Evaluation| e.forces.clone().unwrap_or_default().concat();
        let mut worst = (a.energy - b.energy).abs();
        for (x, y) in forces(&a).iter().zip(forces(&b)) {
            worst = worst.max((x - y).abs());
        }
        assert!(worst <= 1e-6 * scale || scale > 1e6, "{what}: engines differ by {worst:e} of {scale:e}");
    }
}

/// The largest number in a result.
fn largest(e: &Evaluation) -> f64 {
    let forces = e.forces.iter().flatten().flatten();
    e.atomic_energies.iter().chain(forces).fold(0.0, |m: f64, x| m.max(x.abs()))
}
