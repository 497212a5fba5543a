WRONG = "a row resumed in line 11 begins its frames anew"
HINT = "where its data stopped"
REPLACE = [('start = loop.done["game"] + loop.done["finetune"]', 'start = loop.done["game"]')]
