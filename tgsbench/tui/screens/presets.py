from tgsbench.tui.screens.base import ModeScreen


class PresetsScreen(ModeScreen):
    mode_name = "presets"
