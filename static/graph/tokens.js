// Code -> pieces with a kind, for colouring: enough for the C++ and the Triton that compilers write. Nothing is lost: the pieces joined are the code.

const CPP = {
  comment: /^(\/\/.*|\/\*.*?\*\/)/,
  directive: /^#\s*\w+.*/,
  string: /^"(?:[^"\\]|\\.)*"/,
  number: /^(?:0x[\da-fA-F]+|\d+\.?\d*(?:[eE][-+]?\d+)?)[uULlfF]*/,
  keyword: /^(?:auto|const|constexpr|if|else|for|while|return|static_cast|reinterpret_cast|decltype|template|typename|using|namespace|extern|struct|static|inline|new|true|false|nullptr)\b/,
  type: /^(?:void|bool|int|char|float|double|long|unsigned|u?int(?:8|16|32|64)_t|at::vec::\w+|at::\w+|std::\w+|c10::\w+)\b/,
  word: /^[A-Za-z_]\w*/,
};
const PYTHON = {
  comment: /^#.*/,
  string: /^(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")/,
  number: /^(?:0x[\da-fA-F]+|\d+\.?\d*(?:[eE][-+]?\d+)?)/,
  keyword: /^(?:def|return|if|else|elif|for|while|in|is|not|and|or|import|from|as|with|class|lambda|None|True|False|del|pass)\b/,
  directive: /^@[\w.]+/,
  type: /^(?:tl\.\w+(?:\.\w+)?|libdevice\.\w+|tl_math\.\w+|triton\.\w+|triton_helpers\.\w+)/,
  word: /^[A-Za-z_]\w*/,
};

/** [[kind, text], …]; the kind of plain text is empty. */
export function tokens(line, language) {
  const rules = Object.entries(language === "cpp" ? CPP : PYTHON);
  const found = [];
  let plain = "";
  let rest = line;
  while (rest) {
    const rule = rules.map(([kind, pattern]) => [kind, pattern.exec(rest)?.[0]]).find(([, text]) => text);
    const [kind, text] = rule || ["", rest[0]];
    if (!rule || kind === "word") plain += text;
    else {
      if (plain) found.push(["", plain]);
      plain = "";
      found.push([kind, text]);
    }
    rest = rest.slice(text.length);
  }
  if (plain) found.push(["", plain]);
  return found;
}
