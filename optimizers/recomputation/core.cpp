// The evaluation of evaluate.py, step by step the same, compiled: see there for what it does and why.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

using std::vector;

constexpr int64_t LONGEST = 40, NEVER = int64_t(1) << 62;

struct Lists {  // list i is values[from[i]] to values[from[i + 1]]
  const int32_t *from, *values;
  const int32_t* begin(int i) const { return values + from[i]; }
  const int32_t* end(int i) const { return values + from[i + 1]; }
};

struct Problem {
  int operators, storages, backward;
  const int64_t *sizes, *costs, *temporary;
  const uint8_t* kept;
  Lists reads, writes, reads_again, writes_again;
  vector<int32_t> maker;
};

struct Run {
  int32_t index, at;
  bool again;
};

struct Work {
  const Problem& problem;
  vector<uint8_t> available;
  vector<int32_t> passes;
  vector<Run> flat;
  vector<std::pair<int32_t, bool>> stack;
  vector<int64_t> change, extra, most;
  vector<int32_t> last;

  explicit Work(const Problem& given) : problem(given) {}

  void needed(int index, int32_t at) {
    for (const int32_t* s = problem.reads.end(at); s != problem.reads.begin(at);) stack.push_back({*--s, false});
    while (!stack.empty()) {
      auto [storage, ready] = stack.back();
      stack.pop_back();
      if (available[storage]) continue;
      int32_t maker = problem.maker[storage];
      if (!ready) {
        stack.push_back({storage, true});
        for (const int32_t* s = problem.reads_again.end(maker); s != problem.reads_again.begin(maker);) stack.push_back({*--s, false});
        continue;
      }
      flat.push_back({index, maker, true});
      passes[maker]++;
      for (const int32_t* s = problem.writes_again.begin(maker); s != problem.writes_again.end(maker); s++) available[*s] = 1;
    }
  }

  bool schedule(const int32_t* levels) {
    available.assign(problem.storages, 0), passes.assign(problem.operators, 0), flat.clear();
    for (int index = 0; index < problem.operators; index++) {
      if (index == problem.backward)
        for (int at = 0; at < index; at++)
          if (levels[at]) forget(at);
      size_t start = flat.size();
      needed(index, index);
      if (int64_t(flat.size()) + 1 > LONGEST * problem.operators) return false;
      for (size_t i = start; i < flat.size(); i++)
        if (passes[flat[i].at] < levels[flat[i].at]) forget(flat[i].at);
      for (const int32_t* s = problem.writes.begin(index); s != problem.writes.end(index); s++) available[*s] = 1;
      flat.push_back({index, index, false});
    }
    return true;
  }

  void forget(int at) {
    for (const int32_t* s = problem.writes_again.begin(at); s != problem.writes_again.end(at); s++) available[*s] = 0;
  }

  void memory() {
    int length = flat.size();
    change.assign(length + 1, 0), extra.assign(length, 0), last.assign(problem.storages, -1), most.assign(problem.operators, 0);
    for (int s = 0; s < problem.storages; s++)
      if (problem.kept[s]) last[s] = length - 1;
    for (int position = length - 1; position >= 0; position--) {
      auto [index, at, again] = flat[position];
      extra[position] = problem.temporary[again ? problem.operators + at : at];
      const Lists& writes = again ? problem.writes_again : problem.writes;
      for (const int32_t* s = writes.begin(at); s != writes.end(at); s++) {
        int end = last[*s] < 0 ? position : last[*s];
        last[*s] = -1;
        change[position] += problem.sizes[*s];
        change[end + 1] -= problem.sizes[*s];
      }
      const Lists& reads = again ? problem.reads_again : problem.reads;
      for (const int32_t* s = reads.begin(at); s != reads.end(at); s++)
        if (last[*s] < 0) last[*s] = position;
    }
    int64_t now = 0;
    for (int position = 0; position < length; position++) {
      now += change[position];
      most[flat[position].index] = std::max(most[flat[position].index], now + extra[position]);
    }
  }

  // out: peak, cost, excess, at
  void evaluate(const int32_t* levels, int64_t budget, int64_t* out) {
    if (!schedule(levels)) {
      out[0] = out[1] = out[2] = NEVER, out[3] = -1;
      return;
    }
    memory();
    out[0] = out[1] = out[2] = 0, out[3] = -1;
    for (const Run& run : flat)
      if (run.again) out[1] += problem.costs[run.at];
    for (int index = 0; index < problem.operators; index++) {
      if (most[index] > out[0]) out[0] = most[index], out[3] = index;
      out[2] += std::max<int64_t>(0, most[index] - budget);
    }
  }
};

}  // namespace

extern "C" {

void* problem_new(int operators, int storages, int backward, const int64_t* sizes, const int64_t* costs, const int64_t* temporary,
                  const uint8_t* kept, const int32_t* lists) {
  auto* made = new Problem{operators, storages, backward, sizes, costs, temporary, kept, {}, {}, {}, {}, {}};
  for (Lists* each : {&made->reads, &made->writes, &made->reads_again, &made->writes_again}) {
    *each = {lists, lists + operators + 1};
    lists += operators + 1 + each->from[operators];
  }
  made->maker.assign(storages, -1);
  for (int at = 0; at < operators; at++)
    for (const int32_t* s = made->writes.begin(at); s != made->writes.end(at); s++) made->maker[*s] = at;
  return made;
}

void problem_delete(void* problem) { delete static_cast<Problem*>(problem); }

// Changes: of change i, operators changed[from[i]] to changed[from[i + 1]] get the levels beside them; four numbers of each come out.
void evaluate(const void* given, const int32_t* levels, int64_t budget, int changes, const int32_t* from, const int32_t* changed,
              const int32_t* values, int64_t* out) {
  const Problem& problem = *static_cast<const Problem*>(given);
  Work work(problem);
  vector<int32_t> tried(levels, levels + problem.operators);
  for (int change = 0; change < changes; change++) {
    for (int i = from[change]; i < from[change + 1]; i++) tried[changed[i]] = values[i];
    work.evaluate(tried.data(), budget, out + 4 * change);
    for (int i = from[change]; i < from[change + 1]; i++) tried[changed[i]] = levels[changed[i]];
  }
}

void profile(const void* given, const int32_t* levels, int64_t* most) {
  const Problem& problem = *static_cast<const Problem*>(given);
  Work work(problem);
  if (!work.schedule(levels)) return;
  work.memory();
  std::copy(work.most.begin(), work.most.end(), most);
}
}
