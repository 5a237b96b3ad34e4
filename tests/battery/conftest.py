"Which of the 52 lines hold? `--whole` runs the long tests, too, and writes results/battery.json"
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from battery.warm import main, words
from lm_lifecycle.core import write_json
from lm_lifecycle.display import table_text

rarely = pytest.mark.whole
def later(*args): return pytest.param(*args, marks=rarely)

HERE = Path(__file__).parent
IDS = [f'{letter}{i}' for letter,n in dict(F=12, L=3, B=17, D=6, S=10, N=4).items() for i in range(1, n+1)]

def pytest_addoption(parser):
    parser.addoption('--whole', action='store_true', help="run the battery's long tests, too; show its table, and keep it in results/battery.json")

def pytest_configure(config): config.pluginmanager.register(Table(config))

def why(report):
    "The first line of what a failed or skipped test has to say, without the folders it was in"
    if report.skipped: return report.longrepr[2].removeprefix('Skipped: ')
    crash = getattr(report.longrepr, 'reprcrash', None); said = (crash.message if crash else str(report.longrepr)).splitlines()[0]
    return f"{report.nodeid.split('::')[-1]}: {re.sub(r'/[^ :]+/', '', said)[:160]}"

class Table:
    "An id is met when each of its tests has run and passed"
    def __init__(self, config): self.config,self.whole,self.what,self.seen = config, config.getoption('--whole', False), {}, defaultdict(list)

    def pytest_collection_modifyitems(self, items):
        self.all = not self.config.option.keyword and {*HERE.glob('test_*.py')} <= {i.path for i in items} # Was nothing left out?
        for i in items: self.what |= {k:v for k,v in getattr(i.module, 'WHAT', {}).items() if k in IDS}
        late = set() if self.whole else {i for i in items if i.get_closest_marker('whole')}
        if late: items[:] = [i for i in items if i not in late]; self.config.hook.pytest_deselected(items=[*late])

    def pytest_runtest_logreport(self, report):
        if m := re.search(r'::test_([A-Z]\d+)_', report.nodeid): self.seen[m[1]].append(report)

    def row(self, id):
        rs = self.seen[id]; bad,not_run = ([r for r in rs if getattr(r, how)] for how in ('failed','skipped'))
        result = f'missed: {why(bad[0])}' if bad else f'not tested: {why(not_run[0])}' if not_run else 'met' if rs else 'not tested'
        told = [p for r in rs if r.when == 'call' for p in r.user_properties]; most = defaultdict(float)
        for k,v in told: most[k] = max(most[k], v) if k != 'shown' else 0.
        shown = ', '.join([*dict.fromkeys(v for k,v in told if k == 'shown'), *(f'{k} {v:.0e}' if v else f'{k} 0' for k,v in most.items() if k != 'shown')])
        return dict(id=id, what=self.what.get(id, ''), result=result, seconds=round(sum(r.duration for r in rs), 1), **(dict(shown=shown) if shown else {}))

    def pytest_terminal_summary(self, terminalreporter, exitstatus):
        if not self.whole or not self.seen: return
        rows = [self.row(i) for i in IDS]; n = sum(r['result'] == 'met' for r in rows)
        shown = [[r['id'], r['what'], f"{r['result']}; {r['shown']}" if 'shown' in r else r['result']] for r in rows]
        terminalreporter.write_line(f"\n{table_text(shown, ['id','what','result'])}\n\n{n} of {len(IDS)}")
        if self.all and exitstatus in (0,1): write_json(HERE.parents[1]/'results/battery.json', rows)

@pytest.fixture(scope='session')
def whole(work):
    "The folder of a run that nothing has befallen, by its kind; made when first asked for"
    @cache
    def f(what): assert main(words(work, what, work/what)) == 0; return work/what
    return f

@pytest.fixture
def finish(cli):
    "Run a command here, to its good end; what it had to say"
    def f(*ws): code,_,err = cli(*ws); assert code == 0, err; return err
    return f

@pytest.fixture
def most(record_property):
    "Remember a number; the table shows the largest of its name"
    def f(name, x): record_property(name, float(x)); return x
    return f
