from tgsbench.tui.screens.base import ModeScreen


class ProfileScreen(ModeScreen):
    mode_name = "profile"
