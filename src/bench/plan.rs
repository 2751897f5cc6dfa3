//! Which lengths are measured.

use pcache_format::SEGMENT_TOKENS;

/// Lengths below those that anybody saves, to see where saving begins to pay.
const SHORT: [usize; 3] = [1, 8, 32];
/// The first of the lengths that double.
const FIRST: usize = 128;
/// The longest prompt, unless another one is asked for.
pub const USUAL: usize = 2048;
/// Time that all evaluations together should take at most, unless a length is asked for.
const PATIENCE_S: f64 = 150.0;

/// The lengths up to `longest`, which is one of them.
pub fn lengths(longest: usize) -> Vec<usize> {
    let doubled = (0..).map(|n| FIRST << n).take_while(|n| *n < longest);
    SHORT.into_iter().filter(|n| *n < longest).chain(doubled).chain([longest]).collect()
}

/// The lengths that lie on the way to the longest, and those that end in the middle of a batch and are evaluated apart.
pub fn on_the_way(lengths: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let longest = lengths.last().copied().unwrap_or_default();
    lengths.iter().partition(|n| **n == longest || n.is_multiple_of(SEGMENT_TOKENS))
}

/// Tokens that `rounds` rounds evaluate.
pub fn tokens(lengths: &[usize], rounds: usize) -> usize {
    let (way, apart) = on_the_way(lengths);
    (way.last().copied().unwrap_or_default() + apart.iter().sum::<usize>()) * rounds
}

/// The longest prompt that `rounds` rounds evaluate within the time that people have, at `speed` tokens per second.
pub fn affordable(speed: f64, rounds: usize) -> usize {
    let within = |n: &usize| tokens(&lengths(*n), rounds) as f64 / speed <= PATIENCE_S;
    let candidates = (0..).map(|n| USUAL >> n).take_while(|n| *n > FIRST);
    candidates.into_iter().find(within).unwrap_or(FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_double_up_to_the_longest() {
        assert_eq!(lengths(1000), [1, 8, 32, 128, 256, 512, 1000]);
        assert_eq!(lengths(256), [1, 8, 32, 128, 256]);
        assert_eq!(lengths(20), [1, 8, 20]);
        assert_eq!(lengths(1), [1]);
    }

    #[test]
    fn what_ends_in_the_middle_of_a_batch_is_evaluated_apart() {
        let (way, apart) = on_the_way(&lengths(1000));
        assert_eq!((way, apart), (vec![256, 512, 1000], vec![1, 8, 32, 128]));
        assert_eq!(tokens(&lengths(1000), 2), 2 * (1000 + 1 + 8 + 32 + 128));
    }

    #[test]
    fn slow_models_get_short_prompts() {
        assert_eq!(affordable(1e6, 5), USUAL);
        assert!((256..USUAL).contains(&affordable(30.0, 5)));
        assert_eq!(affordable(0.1, 5), FIRST);
    }
}
