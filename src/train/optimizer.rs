//! AdamW, with clipped gradients and a moving average of the weights.
//!
//! Source: I. Loshchilov, F. Hutter, Decoupled weight decay regularization, ICLR 2019, algorithm 2.

use crate::model::weights::{Array, Weights};

/// The state of an optimizer, all in f64.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Optimizer {
    /// Decay of the gradients' mean and of their squares' mean.
    pub betas: [f64; 2],
    /// Added to the root of the squares.
    pub epsilon: f64,
    /// Decay of weights of two dimensions, times the learning rate; vectors (biases) do not decay.
    pub weight_decay: f64,
    /// Longest gradient; a longer one is made as long.
    pub clip: f64,
    /// Decay of the moving average of weights; smaller in the first steps.
    pub average_decay: f64,
    n_steps: u64,
    means: Weights,
    squares: Weights,
    average: Weights,
}

impl Optimizer {
    /// A fresh state for weights as they are now.
    pub fn new(weights: &Weights) -> Self {
        let zeros = || {
            let zero = |a: &Array| Array { shape: a.shape.clone(), data: vec![0.0; a.data.len()] };
            Weights(weights.0.iter().map(|(name, array)| (name.clone(), zero(array))).collect())
        };
        Optimizer {
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: 1e-4,
            clip: 5.0,
            average_decay: 0.999,
            n_steps: 0,
            means: zeros(),
            squares: zeros(),
            average: weights.clone(),
        }
    }

    /// Steps done.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// The moving average of the weights, which is what a training ends with.
    pub fn average(&self) -> &Weights {
        &self.average
    }

    /// Changes weights by a gradient, whose tensors have the names of some of them. Returns the gradient's length; if that is
    /// not finite nothing is changed.
    pub fn step(&mut self, weights: &mut Weights, gradient: &Weights, learning_rate: f64) -> f64 {
        let length = gradient.0.values().flat_map(|a| &a.data).map(|g| g * g).sum::<f64>().sqrt();
        if !length.is_finite() {
            return length;
        }
        let scale = if length > self.clip { self.clip / length } else { 1.0 };
        self.n_steps += 1;
        let steps = self.n_steps as f64;
        let [beta, beta_squares] = self.betas;
        let [unbias, unbias_squares] = self.betas.map(|b| 1.0 / (1.0 - b.powf(steps)));
        for (name, gradient) in &gradient.0 {
            let state = (weights.0.get_mut(name), self.means.0.get_mut(name), self.squares.0.get_mut(name));
            let (Some(weight), Some(means), Some(squares)) = state else { continue };
            let decay = if weight.shape.len() > 1 { 1.0 - learning_rate * self.weight_decay } else { 1.0 };
            let state = means.data.iter_mut().zip(&mut squares.data);
            for ((w, g), (mean, square)) in weight.data.iter_mut().zip(&gradient.data).zip(state) {
                let g = g * scale;
                *mean += (1.0 - beta) * (g - *mean);
                *square += (1.0 - beta_squares) * (g * g - *square);
                *w = *w * decay - learning_rate * (*mean * unbias) / ((*square * unbias_squares).sqrt() + self.epsilon);
            }
        }
        let decay = self.average_decay.min((1.0 + steps) / (10.0 + steps));
        for (average, weight) in self.average.0.values_mut().zip(weights.0.values()) {
            average.data.iter_mut().zip(&weight.data).for_each(|(a, w)| *a += (1.0 - decay) * (w - *a));
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(values: &[f64]) -> Weights {
        let mut out = Weights::default();
        out.put("w", Array { shape: vec![values.len(), 1], data: values.to_vec() });
        out
    }

    #[test]
    fn steps_follow_the_algorithm() {
        let mut weights = one(&[1.0, -2.0]);
        let mut optimizer = Optimizer { weight_decay: 0.01, ..Optimizer::new(&weights) };
        optimizer.step(&mut weights, &one(&[0.5, -1.0]), 0.1);
        // The first step is the learning rate, after the decay.
        approx::assert_abs_diff_eq!(weights.0["w"].data[0], 0.999 - 0.1, epsilon = 1e-7);
        approx::assert_abs_diff_eq!(weights.0["w"].data[1], -1.998 + 0.1, epsilon = 1e-7);
        optimizer.step(&mut weights, &one(&[0.1, 0.3]), 0.1);
        // By hand: means 0.055 and -0.06 over 0.19, squares 0.00025975 and 0.001089 over 0.001999.
        let step = |mean: f64, square: f64| 0.1 * (mean / 0.19) / ((square / 0.001_999).sqrt() + 1e-8);
        let by_hand = [0.899 * 0.999 - step(0.055, 0.000_259_75), -1.898 * 0.999 + step(0.06, 0.001_089)];
        for (got, want) in weights.0["w"].data.iter().zip(by_hand) {
            approx::assert_abs_diff_eq!(*got, want, epsilon = 1e-6);
        }
        assert!(!optimizer.step(&mut weights, &one(&[f64::NAN, 0.0]), 0.1).is_finite());
        assert_eq!(optimizer.n_steps(), 2);
    }
}
