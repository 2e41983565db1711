// A pickle of plain data, read without building any object: a stack machine over opcodes that knows dicts, lists, tuples, texts, whole numbers,
// floats, booleans and None, and ends at the first opcode that could name, make or call anything else. `plain_pickle.py` is its other face.
//
// A value is one word: the kind in the lowest three bits, above them the number itself or a position in the table of that kind.

#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace {

using Value = uint64_t;
enum Kind : uint64_t { MISSING, NONE, BOOL, INT, FLOAT, TEXT, LIST, DICT };
enum Fault { FINE, REFUSED, DAMAGED, LARGE };

constexpr size_t MOST_CONTAINERS = size_t(1) << 25, MOST_ITEMS = size_t(1) << 27, MOST_MEMO = size_t(1) << 26, MOST_STACK = size_t(1) << 26,
                 MOST_MARKS = size_t(1) << 20, MOST_TEXTS = size_t(1) << 22;

constexpr Value made(Kind kind, uint64_t payload) { return payload << 3 | kind; }
constexpr Kind kind_of(Value value) { return Kind(value & 7); }
constexpr uint64_t payload(Value value) { return value >> 3; }

struct Container {
  uint64_t start = 0;
  uint32_t count = 0, room = 0;
};

struct Stop {
  Fault fault;
};

struct Reader {
  const uint8_t *data = nullptr;
  size_t size = 0, at = 0, last = 0;
  std::vector<Value> stack, memo, items;
  std::vector<size_t> marks;
  std::vector<Container> containers;
  std::vector<double> floats;
  std::deque<std::string> texts;
  std::unordered_map<std::string_view, uint64_t> known;
  std::vector<int8_t> judged;
  Fault fault = FINE;
  Value root = made(MISSING, 0);

  const uint8_t *take(size_t count) {
    if (count > size - at) throw Stop{DAMAGED};
    at += count;
    return data + at - count;
  }
  uint64_t number(int bytes) {
    uint64_t found = 0;
    const uint8_t *from = take(bytes);
    for (int index = 0; index < bytes; ++index) found |= uint64_t(from[index]) << (8 * index);
    return found;
  }
  void push(Value value) {
    if (stack.size() >= MOST_STACK) throw Stop{LARGE};
    stack.push_back(value);
  }
  size_t floor() const { return marks.empty() ? 0 : marks.back(); }
  Value pop() {
    if (stack.size() <= floor()) throw Stop{DAMAGED};
    Value value = stack.back();
    stack.pop_back();
    return value;
  }
  Value top() const {
    if (stack.size() <= floor()) throw Stop{DAMAGED};
    return stack.back();
  }
  size_t mark() {
    if (marks.empty() || marks.back() > stack.size()) throw Stop{DAMAGED};
    size_t found = marks.back();
    marks.pop_back();
    return found;
  }
  void integer(const uint8_t *from, size_t count) {
    if (count > 8) throw Stop{REFUSED};  // no address or size is so large
    int64_t found = count && from[count - 1] & 0x80 ? -1 : 0;
    for (size_t index = count; index-- > 0;) found = int64_t(uint64_t(found) << 8 | from[index]);
    if (found >= int64_t(1) << 60 || found < -(int64_t(1) << 60)) throw Stop{REFUSED};
    push(made(INT, uint64_t(found)));
  }
  void text(size_t count) {
    const char *from = reinterpret_cast<const char *>(take(count));
    auto [entry, is_new] = known.try_emplace(std::string_view(from, count), texts.size());
    if (is_new && texts.size() >= MOST_TEXTS) throw Stop{LARGE};
    if (is_new) texts.emplace_back(from, count);
    push(made(TEXT, entry->second));
  }
  void container(Kind kind, size_t from) {
    if (containers.size() >= MOST_CONTAINERS) throw Stop{LARGE};
    containers.emplace_back();
    Value value = made(kind, containers.size() - 1);
    append(value, from);
    push(value);
  }
  // Moves what is on the stack from there on to the container's end.
  void append(Value value, size_t from) {
    Container &into = containers[payload(value)];
    size_t more = stack.size() - from, total = into.count + more;
    if (!more) return;
    if (total > into.room) {
      size_t room = into.room ? 2 * total : total;
      if (items.size() + room > MOST_ITEMS) throw Stop{LARGE};
      size_t start = items.size();
      items.resize(start + room);
      if (into.count) std::memcpy(&items[start], &items[into.start], into.count * sizeof(Value));
      into.start = start;
      into.room = uint32_t(room);
    }
    std::memcpy(&items[into.start + into.count], &stack[from], more * sizeof(Value));
    into.count = uint32_t(total);
    stack.resize(from);
  }
  // The same for the container below what is on the stack from there on.
  void fill(Kind kind, size_t from) {
    if (from <= floor() || from > stack.size()) throw Stop{DAMAGED};
    Value value = stack[from - 1];
    if (kind_of(value) != kind || (kind == DICT && (stack.size() - from) % 2)) throw Stop{DAMAGED};
    append(value, from);
  }
  void remember(size_t place) {
    if (place >= MOST_MEMO || place > size) throw Stop{LARGE};
    if (place >= memo.size()) memo.resize(place + 1, made(MISSING, 0));
    memo[place] = top();
  }
  void recall(size_t place) {
    if (place >= memo.size() || kind_of(memo[place]) == MISSING) throw Stop{DAMAGED};
    push(memo[place]);
  }

  bool step() {
    last = at;
    switch (*take(1)) {
      case 0x80: number(1); break;                                  // PROTO
      case 0x95: number(8); break;                                  // FRAME
      case '.': root = pop(); return false;                         // STOP
      case '(':                                                     // MARK
        if (marks.size() >= MOST_MARKS) throw Stop{LARGE};
        marks.push_back(stack.size());
        break;
      case '0': pop(); break;                                       // POP
      case '1': stack.resize(mark()); break;                        // POP_MARK
      case 'N': push(made(NONE, 0)); break;
      case 0x88: push(made(BOOL, 1)); break;                        // NEWTRUE
      case 0x89: push(made(BOOL, 0)); break;                        // NEWFALSE
      case 'K': push(made(INT, number(1))); break;                  // BININT1
      case 'M': push(made(INT, number(2))); break;                  // BININT2
      case 'J': push(made(INT, uint64_t(int64_t(int32_t(number(4)))))); break;  // BININT
      case 0x8a: { size_t count = number(1); integer(take(count), count); break; }  // LONG1
      case 'G': {                                                   // BINFLOAT, most significant byte first
        const uint8_t *from = take(8);
        uint64_t bits = 0;
        for (int index = 0; index < 8; ++index) bits = bits << 8 | from[index];
        double found;
        std::memcpy(&found, &bits, 8);
        floats.push_back(found);
        push(made(FLOAT, floats.size() - 1));
        break;
      }
      case 0x8c: text(number(1)); break;                            // SHORT_BINUNICODE
      case 'X': text(number(4)); break;                             // BINUNICODE
      case 0x8d: text(number(8)); break;                            // BINUNICODE8
      case ')': container(LIST, stack.size()); break;               // EMPTY_TUPLE
      case ']': container(LIST, stack.size()); break;               // EMPTY_LIST
      case '}': container(DICT, stack.size()); break;               // EMPTY_DICT
      case 't': container(LIST, mark()); break;                     // TUPLE
      case 0x85: case 0x86: case 0x87: {                            // TUPLE1, TUPLE2, TUPLE3
        size_t count = data[last] - 0x84;
        if (stack.size() < floor() + count) throw Stop{DAMAGED};
        container(LIST, stack.size() - count);
        break;
      }
      case 'a': fill(LIST, stack.size() - (stack.size() > 0)); break;              // APPEND
      case 'e': { size_t from = mark(); fill(LIST, from); break; }                 // APPENDS
      case 's': fill(DICT, stack.size() < 2 ? 0 : stack.size() - 2); break;        // SETITEM
      case 'u': { size_t from = mark(); fill(DICT, from); break; }                 // SETITEMS
      case 'q': remember(number(1)); break;                         // BINPUT
      case 'r': remember(number(4)); break;                         // LONG_BINPUT
      case 0x94: remember(memo.size()); break;                      // MEMOIZE
      case 'h': recall(number(1)); break;                           // BINGET
      case 'j': recall(number(4)); break;                           // LONG_BINGET
      default: throw Stop{REFUSED};
    }
    return true;
  }

  const std::string *text_at(const Container &dict, uint64_t key) const {
    for (uint32_t index = dict.count; index >= 2; index -= 2) {
      if (items[dict.start + index - 2] == made(TEXT, key)) {
        Value value = items[dict.start + index - 1];
        return kind_of(value) == TEXT ? &texts[payload(value)] : nullptr;
      }
    }
    return nullptr;
  }
  uint64_t word(std::string_view name) const {
    auto found = known.find(name);
    return found == known.end() ? ~uint64_t(0) >> 3 : found->second;
  }
};

}  // namespace

extern "C" {

Reader *plain_read(const uint8_t *data, int64_t size) {
  auto *reader = new Reader;
  reader->data = data;
  reader->size = size_t(size);
  try {
    while (reader->step()) {}
  } catch (const Stop &stop) {
    reader->fault = stop.fault;
  } catch (const std::bad_alloc &) {
    reader->fault = LARGE;
  }
  reader->stack = {};
  reader->memo = {};
  return reader;
}

void plain_close(Reader *reader) { delete reader; }
int plain_fault(const Reader *reader) { return reader->fault; }
int64_t plain_where(const Reader *reader) { return int64_t(reader->last); }
uint64_t plain_root(const Reader *reader) { return reader->root; }
double plain_float(const Reader *reader, uint64_t value) { return reader->floats[payload(value)]; }

const char *plain_text(const Reader *reader, uint64_t value, int64_t *size) {
  const std::string &found = reader->texts[payload(value)];
  *size = int64_t(found.size());
  return found.data();
}

// Of a list its items, of a dict its keys and values in turn; returns how many there are.
int64_t plain_items(const Reader *reader, uint64_t value, uint64_t *out) {
  const Container &from = reader->containers[payload(value)];
  if (out && from.count) std::memcpy(out, &reader->items[from.start], from.count * sizeof(Value));
  return from.count;
}

// Rows × keys: the values under some keys of every dict in a list. Keys are texts of the pickle; what is not there is MISSING.
void plain_table(const Reader *reader, uint64_t list, const uint64_t *keys, int64_t count, uint64_t *out) {
  const Container &rows = reader->containers[payload(list)];
  for (uint32_t row = 0; row < rows.count; ++row, out += count) {
    std::memset(out, 0, size_t(count) * sizeof(Value));
    Value dict = reader->items[rows.start + row];
    if (kind_of(dict) != DICT) continue;
    const Container &from = reader->containers[payload(dict)];
    for (uint32_t index = 0; index + 1 < from.count; index += 2) {
      for (int64_t key = 0; key < count; ++key) {
        if (reader->items[from.start + index] == keys[key]) out[key] = reader->items[from.start + index + 1];
      }
    }
  }
}

uint64_t plain_word(const Reader *reader, const char *name) { return made(TEXT, reader->word(name)); }

// Of every list of frames the one that a reader wants to see: the innermost that names an fx node, else the innermost outside of torch, else the innermost.
void plain_frames(Reader *reader, const uint64_t *lists, int64_t count, uint64_t *out) {
  const uint64_t file = reader->word("filename"), node = reader->word("fx_node_name");
  reader->judged.assign(reader->containers.size(), -1);
  for (int64_t row = 0; row < count; ++row) {
    out[row] = made(MISSING, 0);
    if (kind_of(lists[row]) != LIST) continue;
    const Container &frames = reader->containers[payload(lists[row])];
    int best = 0;
    for (uint32_t index = 0; index < frames.count && best < 3; ++index) {
      Value frame = reader->items[frames.start + index];
      if (kind_of(frame) != DICT) continue;
      int8_t &rank = reader->judged[payload(frame)];
      if (rank < 0) {
        const Container &dict = reader->containers[payload(frame)];
        const std::string *place = reader->text_at(dict, file), *named = reader->text_at(dict, node);
        bool own = place && place->find("/torch/") == std::string::npos && place->find(".py") != std::string::npos;
        rank = named && !named->empty() ? 3 : own ? 2 : 1;
      }
      if (rank > best) {
        best = rank;
        out[row] = frame;
      }
    }
  }
}
}
