from tgsbench.tui.screens.base import ModeScreen


class RunsScreen(ModeScreen):
    mode_name = "runs"
