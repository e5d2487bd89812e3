from tgsbench.tui.screens.base import ModeScreen


class DoctorScreen(ModeScreen):
    mode_name = "doctor"
