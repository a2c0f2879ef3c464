//! Which patterns without braces does a pattern of paths stand for?
//!
//! Patterns are those of Hadoop: `*`, `?`, `[a-z]`, `[^a]`, `{a,b}`, `**`.

/// Whether a text is a pattern, rather than a name.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// The patterns without braces that one stands for, as `glob` writes them.
///
/// # Examples
/// ```
/// assert_eq!(model::pattern::expand("{a,b{1,2}}/[^x]*"), ["a/[!x]*", "b1/[!x]*", "b2/[!x]*"]);
/// ```
#[must_use]
pub fn expand(pattern: &str) -> Vec<String> {
    expand_braces(&pattern.replace("[^", "[!"))
}

fn expand_braces(pattern: &str) -> Vec<String> {
    let Some(open) = pattern.find('{') else { return vec![pattern.to_owned()] };
    let (mut depth, mut start, mut choices) = (0u32, open + 1, Vec::new());
    for (at, c) in pattern.char_indices().skip_while(|&(at, _)| at < open) {
        match c {
            '{' => depth += 1,
            ',' if depth == 1 => {
                choices.push(&pattern[start..at]);
                start = at + 1;
            }
            '}' if depth == 1 => {
                choices.push(&pattern[start..at]);
                let (before, after) = (&pattern[..open], &pattern[at + 1..]);
                return choices.iter().flat_map(|choice| expand_braces(&format!("{before}{choice}{after}"))).collect();
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    vec![pattern.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_stand_for_each_of_their_choices() {
        assert_eq!(expand("a{b,c{d,e}}f"), ["abf", "acdf", "acef"]);
        assert_eq!(expand("a{b"), ["a{b"]);
    }
}
